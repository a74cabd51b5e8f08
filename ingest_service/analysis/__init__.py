"""What is computed of sources beside loading them: what a load would take, and what is popular."""
