"""The engines behind the gateway, all reached over HTTP in the OpenAI dialect."""
