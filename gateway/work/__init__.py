"""The worker's steps, one subject each; `gateway.worker` takes them in turn."""
