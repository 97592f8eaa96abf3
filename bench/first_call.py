"""A client process that makes one call and says when it has the result. What `cold start` starts beside a node."""

from bench.sizes import FULL
from bench.tasks import add, app

if __name__ == "__main__":
    print(add.delay(2, 2).get(timeout=FULL.operation_timeout_s), flush=True)
    app.close()
