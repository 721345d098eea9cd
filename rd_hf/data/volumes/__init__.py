"""Volumes: NIfTI files, DICOM series and arrays, brought to one grid, and shown as views."""
