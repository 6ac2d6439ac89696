"""What every room uses: files, errors, devices, processes."""
