"""What a recording or a running vehicle holds, the rig that it suggests, and whether a rig is ready for it."""
