"""Deploy the system in containers, systemd or Kubernetes."""
