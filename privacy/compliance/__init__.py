"""What a verified log shows, for people who answer for data protection."""
