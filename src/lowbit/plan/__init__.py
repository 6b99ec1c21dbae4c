"""Plans: rules and strategies that give every site its choice. No torch."""
