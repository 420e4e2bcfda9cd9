"""What a customer declares in `crm.yml`."""
