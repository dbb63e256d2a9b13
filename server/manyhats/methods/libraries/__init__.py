"""How other libraries' files store methods: the interface between a method and the formats."""
