"""What tenants are told by HTTP when it happens: signed, tried again, never to an address inside (docs/webhooks.md)."""
