"""Folders of pictures: what is segmented, the manifest that makes it resumable, encoded pictures, the page."""
