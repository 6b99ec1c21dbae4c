"""Model families: each file says where its sites are."""
