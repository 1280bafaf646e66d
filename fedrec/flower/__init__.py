"""The only package that imports flwr: codec, transport, strategy, ServerApp and ClientApp."""
