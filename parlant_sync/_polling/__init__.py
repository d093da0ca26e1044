"""One poller per session, and the mailboxes it delivers to."""
