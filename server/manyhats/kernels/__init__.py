"""Operations of all adapters of a batch at one site, one call each: their protocol, and the backends."""
