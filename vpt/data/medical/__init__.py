"""DICOM, NIfTI and NumPy files as images. Only the elements that determine pixels are read: no text of a header leaves
this package, not even in an error message."""
