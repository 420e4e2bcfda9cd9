"""The console: the pages that bid managers and operators keep open.

Here is what the pages share. Each page lies in its feature's folder and calls the same service
as the endpoints do, so that what the API refuses, the console refuses. htmx swaps parts of a
page; nothing is loaded from elsewhere, and no script or style stands in a page.
"""
