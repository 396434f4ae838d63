"""What the project installs and hands on: locks and licences."""
