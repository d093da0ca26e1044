"""What tests of several folders share: servers, proxies, runners, checks."""
