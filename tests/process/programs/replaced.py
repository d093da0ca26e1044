"""In an environment where urllib3-future has taken urllib3's place: prints why there is no client."""

from parlant_sync import Client, ConfigurationError

try:
    Client("http://127.0.0.1:1")
except ConfigurationError as error:
    print(error)
