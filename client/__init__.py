"""What runs inside a site: connectors, masking, private training, the door."""
