"""Makes the default study for a network and data (`ablate --network … --data …`)."""
