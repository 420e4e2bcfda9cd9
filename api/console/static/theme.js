// Before the first paint: the theme that was chosen in this browser.
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
