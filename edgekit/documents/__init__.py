"""The JSON documents that commands print (contract: edgekit/schemas/contract.schema.json)."""
