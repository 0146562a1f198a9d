"""What an exporter asks the skeleton service for: which plans its host has."""
