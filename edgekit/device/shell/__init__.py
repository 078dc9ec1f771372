"""Remote shells, independent of what carries their bytes (SSH, adb).

channel.py     the interface: a transport provides a function that opens a Channel
start.py       starting a program, and finding where its output begins
streams.py     threads that read and feed a program's streams
guard.py       ends programs on the device when the connection is lost
command.py     one program registered with the guard; process.py: as file objects
transport.py   run, start, put and get of device/base.Transport
"""
