"""What Meta's APIs (WhatsApp, Facebook, Instagram) share: Graph's envelope, usage headers, webhooks."""
