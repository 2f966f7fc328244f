from ace.poses import evenly_spread


def test_evenly_spread():
    assert evenly_spread(3, 4).tolist() == [0, 1, 2] and evenly_spread(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spread(1, 4).tolist() == [0]
