"""What goes into the core and what comes out: requests, reports, actions and events."""
