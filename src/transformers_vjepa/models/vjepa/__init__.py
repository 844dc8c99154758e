"""V-JEPA: configuration, network and processors. Exactly these files travel to the Hub."""
