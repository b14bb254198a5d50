"""Untrusted files in, durable files out: checksums, pickles, encoded images, tar, RecordIO."""
