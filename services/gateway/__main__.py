"""`python -m services.gateway`: run the gateway."""

from services.gateway.http_server import run_gateway


def main() -> None:
    """Run the gateway until it is told to stop."""
    run_gateway()


if __name__ == "__main__":
    main()
