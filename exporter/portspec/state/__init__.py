"""What is known of hosts: their states, verdicts and changes. Pure."""
