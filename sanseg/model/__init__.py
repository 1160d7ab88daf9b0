"""The network: CLIP's two towers, the side adapter, and SAN made of them. Imports nothing of ours outside itself."""
