"""Devices over SSH, set up as people have it for OpenSSH (docs/ssh.md).

address.py     the DEVICE argument
config.py      the user's configuration by `ssh -G`; fallback.py: without an OpenSSH client
options.py     the options of it that concern edgekit
hostkeys.py    known_hosts: is the device the one it was?
auth.py        login; keys.py: the keys of files and agents; terminal.py: questions
link.py        one SSH connection, and whether its peer is still there
private.py     everything that is used of paramiko beyond its documented interface
connection.py  from a DEVICE to its link: jump hosts; sockets.py: TCP and proxy commands
channel.py     one program on the device, for device/shell/
transport.py   the transport: a connection, and device/shell/ over it
"""
