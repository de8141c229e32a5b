"""Ask for one session: ``python examples/first_request.py [amqp://user:password@host/vhost]``."""

import asyncio
import sys

from session_client import RequestFailed, SessionClient, SessionClientError


async def main(url: str) -> None:
    async with SessionClient(url, name="first-request") as client:
        response = await client.create_session(user_id="ada@example.com", title="First session", timeout=30)
        print(f"created {response.payload.session_id} at {response.payload.created_at}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@localhost:5672/"))
    except RequestFailed as error:
        sys.exit(f"{error.code}: {error.response.error}")
    except SessionClientError as error:
        sys.exit(str(error))
