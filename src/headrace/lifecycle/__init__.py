"""What happens before and after serving: batch jobs at once, on upload and on clusters; ways in of other tools."""
