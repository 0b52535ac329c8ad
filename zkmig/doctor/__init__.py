"""`zkmig doctor`: what an ensemble, its members and a scope are like, and what that means for a migration."""
