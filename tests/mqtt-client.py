"""An MQTT client with a certificate, by paho-mqtt: publishes once, or stays and says what happens to it.

usage: mqtt-client.py publish|stay HOST PORT SERVER-CA CERTIFICATE KEY

publish: exit code 0 when the broker acknowledged the message, 1 when it did not within 10 s or refused.
stay: prints a line for each event (connected, disconnected, refused) until it is killed.
"""

import sys
import threading
import time

import paho.mqtt.client as mqtt

act, host, port, ca, certificate, key = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="")
client.tls_set(ca_certs=ca, certfile=certificate, keyfile=key)
client.reconnect_delay_set(min_delay=1, max_delay=1)


def say(text):
    print(text, flush=True)


def publish():
    accepted = threading.Event()
    client.on_connect = lambda *arguments: accepted.set()
    client.connect(host, int(port))
    client.loop_start()
    if not accepted.wait(10):
        return 1
    message = client.publish("test/topic", "21.5", qos=1)
    message.wait_for_publish(10)
    return 0 if message.is_published() else 1


def stay():
    client.on_connect = lambda *arguments: say("connected")
    client.on_disconnect = lambda *arguments: say("disconnected")
    client.connect(host, int(port))
    while True:
        # With TLS 1.3 a refusal comes after the handshake, as an end of the connection.
        client.loop_forever(retry_first_connection=True)
        time.sleep(1)


if act == "stay":
    try:
        stay()
    except OSError as error:
        say(f"refused: {error}")
        sys.exit(1)
try:
    sys.exit(publish())
except OSError as error:
    say(f"refused: {error}")
    sys.exit(1)
