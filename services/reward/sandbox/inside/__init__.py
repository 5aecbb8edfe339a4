"""What runs within a jail: standard library, numpy or QuickJS, nothing of moontune's.

`start` confines the process and becomes the zygote; the zygote forks a process for each batch; that process is the
only one that ever holds user code.
"""
