from fiefdom.inventory import groups_beside

globals().update(groups_beside(__file__))
