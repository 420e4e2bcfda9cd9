"""How the system is run elsewhere than in a shell: containers, systemd, Kubernetes."""
