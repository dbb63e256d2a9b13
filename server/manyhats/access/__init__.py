"""Who may do what: keys and their file, tokens of an identity provider, scopes and quotas."""
