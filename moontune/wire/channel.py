"""What both ends of a channel agree on beside the messages."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Of one message either way; anything bigger is a stream of chunks."""

MESSAGE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

REQUEST_ID_HEADER = "x-request-id"
"""One id in the logs of every service that a request touches."""
