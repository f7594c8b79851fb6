from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from dinoscope.datasets.bbbc021 import CHANNELS, IMAGE_TABLE, MOA_TABLE, read_bbbc021
from dinoscope.errors import InputError

HEAD = (
    "TableNumber,ImageNumber,Image_FileName_DAPI,Image_PathName_DAPI,Image_FileName_Tubulin,"
    "Image_PathName_Tubulin,Image_FileName_Actin,Image_PathName_Actin,Image_Metadata_Plate_DAPI,"
    "Image_Metadata_Well_DAPI,Replicate,Image_Metadata_Compound,Image_Metadata_Concentration"
)
TREATMENTS = (("taxol", "0.3"), ("DMSO", "0.0"), ("unknown", "1.0"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    week = "Week1/Week1_22123"
    (tmp_path / week).mkdir(parents=True)
    lines = [HEAD]
    for number, (compound, dose) in enumerate(TREATMENTS):
        cells = []
        for level in range(len(CHANNELS)):
            name = f"Week1_150607_B0{number + 2}_s1_w{level + 1}.tif"
            tifffile.imwrite(tmp_path / week / name, np.full((5, 6), 1000 * level + number, "u2"))
            cells += [name, week]
        lines.append(f"4,{number},{','.join(cells)},Week1_22123,B0{number + 2},1,{compound},{dose}")
    (tmp_path / IMAGE_TABLE).write_text("\n".join(lines) + "\n")
    (tmp_path / MOA_TABLE).write_text(
        "compound,concentration,moa\ntaxol,0.300,Microtubule stabilizers\nDMSO,0.0,DMSO\n"
    )
    return tmp_path


def test_channels_classes_and_groups(folder: Path) -> None:
    found = read_bbbc021(folder)
    assert found.task == "classification"
    assert found.truths == ("Microtubule stabilizers", "DMSO")
    assert found.groups == ("taxol", "Week1_22123")
    image = found.images[1]
    assert image.axes == "CYX"  # type: ignore[union-attr]
    assert image.data.dtype == np.uint16  # type: ignore[union-attr]
    assert np.asarray(image.data[:])[:, 0, 0].tolist() == [1, 1001, 2001]  # type: ignore[union-attr]


def test_groups_by_well_and_plate(folder: Path) -> None:
    assert read_bbbc021(folder, "well").groups == ("Week1_22123_B02", "Week1_22123_B03")
    assert read_bbbc021(folder, "plate").groups == ("Week1_22123",) * 2
    with pytest.raises(InputError, match="group_by is 'day'"):
        read_bbbc021(folder, "day")


@pytest.mark.parametrize("name", [IMAGE_TABLE, MOA_TABLE])
def test_a_missing_table_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_bbbc021(folder)


def test_a_missing_column_file_and_treatment_are_named(folder: Path) -> None:
    moa = folder / MOA_TABLE
    moa.write_text("compound,dose,moa\n")
    with pytest.raises(InputError, match="no column 'concentration'"):
        read_bbbc021(folder)
    moa.write_text("compound,concentration,moa\nnone,1,x\n")
    with pytest.raises(InputError, match="no image of"):
        read_bbbc021(folder)
    moa.write_text("compound,concentration,moa\ntaxol,much,x\n")
    with pytest.raises(InputError, match="concentration 'much'"):
        read_bbbc021(folder)
    moa.write_text("compound,concentration,moa\ntaxol,0.3,x\n")
    next(folder.glob("Week1/*/*_B02_s1_w3.tif")).unlink()
    with pytest.raises(InputError, match=r"_w3\.tif.*does not exist"):
        read_bbbc021(folder)
