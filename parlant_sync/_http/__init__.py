"""HTTP over requests and urllib3: one request out, one answer or one typed error back."""
