"""Python's nodepool-launcher without the quota of 20 servers that its fake cloud has."""
import sys

from nodepool.cmd.launcher import main
from nodepool.driver.fake import adapter

adapter.FakeOpenStackCloud._get_quota = staticmethod(lambda: (10 ** 7, 10 ** 6, 10 ** 9))

if __name__ == '__main__':
    sys.exit(main())
