"""Devices over SSH, set up as people have it for OpenSSH (docs/ssh.md).

address.py     the DEVICE argument
config.py      ~/.ssh/config as OpenSSH reads it; options.py: what of it concerns edgekit
hostkeys.py    known_hosts: is the device the one it was?
auth.py        who are we; agent.py, keys.py: what proves it
link.py        one SSH connection, and whether its peer is still there
private.py     everything that is used of paramiko beyond its documented interface
connection.py  from a DEVICE to its link: sockets, proxy commands, jump hosts
channel.py     one program on the device, for device/shell/
transport.py   the methods of device/base.Transport
"""
