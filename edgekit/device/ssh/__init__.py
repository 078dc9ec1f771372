"""Devices over SSH, with the user's OpenSSH configuration (docs/ssh.md).

address.py     the DEVICE argument
config.py      the user's configuration by `ssh -G`; fallback.py: without an OpenSSH client
options.py     the options that edgekit uses
hostkeys.py    known_hosts: checks that the device is the same as before
auth.py        login; keys.py: the keys of files and agents; terminal.py: questions
link.py        one SSH connection; detects a silent peer
private.py     all that edgekit uses of paramiko beyond its documented interface
connection.py  from a DEVICE to its link: jump hosts; sockets.py: TCP and proxy commands
channel.py     one program on the device, for device/shell/
transport.py   the transport: a connection, and device/shell/ over it
"""
