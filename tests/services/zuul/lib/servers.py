"""Plays the sshd of every server whose address is one of this machine's own, in 127.0.0.0/8.

  servers.py PORT COMMAND...

Listens on that port of every address, but only for what comes over the loopback device, and runs COMMAND (sshd -i) for
each connection with the socket as its standard input and output, as inetd does: so the command knows which address was
meant.
"""
import signal
import socket
import subprocess
import sys

port, command = int(sys.argv[1]), sys.argv[2:]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo\0')
listener.bind(('0.0.0.0', port))
listener.listen(256)
while True:
    connection, _ = listener.accept()
    # sshd ends the session when its caller's signals are ignored: they are given back.
    subprocess.Popen(command, stdin=connection, stdout=connection, preexec_fn=lambda: signal.signal(
        signal.SIGCHLD, signal.SIG_DFL))
    connection.close()
