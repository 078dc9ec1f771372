"""What any remote shell needs, whatever carries its bytes: SSH or adb.

channel.py     the seam: a transport hands in a function that opens a Channel
start.py       how a program is started, and where its own output begins
streams.py     threads that read and feed a program's streams
guard.py       what ends programs on the device when the connection is lost
command.py     one program that the guard knows of; process.py: as file objects
transport.py   run, start, put and get of device/base.Transport
"""
