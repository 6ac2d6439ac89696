"""What strangers may send: files and requests that try to stall, fill or crash whoever reads them."""
