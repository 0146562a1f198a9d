"""skeleton-service: learns the paths a training job uses, makes probe plans and rules, names what is broken."""
