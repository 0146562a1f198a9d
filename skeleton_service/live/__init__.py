"""The service live: jobs come and go, agents ask for their plans, people for verdicts. Around it, all is pure."""
